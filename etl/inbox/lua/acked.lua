-- acked: what was acknowledged, and by what claims that are loaded are told from those: all of one moment.
--
-- KEYS[1]  what was acknowledged; see ack.lua
-- KEYS[2]  the registry of claims of this source
-- KEYS[3]  what was claimed last; see claim.lua
--
-- Returns the members of the first with their scores, those of the registry, and when the last claim was made, Unix ms;
-- "" if the server doesn't say.

local last = redis.pcall('ZSCORE', KEYS[3], 'last')
return {
  redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'),
  redis.call('ZRANGE', KEYS[2], 0, -1),
  type(last) == 'string' and last or '',
}
