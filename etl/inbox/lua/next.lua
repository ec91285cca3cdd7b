-- next: the time for the id of a claim: later than that of every claim before, also where the clock was set back.
--
-- KEYS[1]  what was claimed last; see claim.lua
--
-- Returns Unix ms, and writes nothing: who claims first with it notes it, and others ask again. Where what is noted may
-- not be read, Redis' own time.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local last = redis.pcall('ZSCORE', KEYS[1], 'last')
if type(last) == 'table' then
  return string.find(last.err, 'WRONGTYPE', 1, true) and last or now
end
return last and math.max(now, tonumber(last) + 1) or now
