-- drop: delete kept messages, the claims of which are in Postgres.
--
-- KEYS[1]  the kept claims of this source; see ack.lua
-- KEYS[2]  what was acknowledged; see ack.lua
-- KEYS[3]  what was claimed last; see claim.lua
-- KEYS[4…] the lists that keep the messages
-- ARGV[1…] their entries in KEYS[1], "<batch_id>@<bytes>", in the same order
--
-- The last one's entry stays, so that it can be asked for.
-- Returns how many bytes that frees, about.

redis.call('ZREM', KEYS[1], '\0')
redis.call('ZADD', KEYS[2], 'XX', 0, '\0')
local freed, last, at = 0, nil, nil
for i = 1, #ARGV do
  redis.call('UNLINK', KEYS[i + 3])
  redis.pcall('ZREM', KEYS[3], string.match(ARGV[i], '^[^@]*'))
  local score = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if score then
    last, at = ARGV[i], score
    redis.call('ZREM', KEYS[1], last)
    freed = freed + (tonumber(string.match(last, '@(%d+)$')) or 0)
  end
end
if last and redis.call('ZCARD', KEYS[1]) == 0 then
  redis.call('ZADD', KEYS[1], at, string.match(last, '^[^@]*') .. '@0')
end
local all = tonumber(redis.call('ZSCORE', KEYS[2], 'kept bytes') or 0)
-- Where nothing is kept the sum is zero, whatever it was: somebody may have deleted the entries.
local left = redis.call('ZRANGE', KEYS[1], 0, 1)
if #left == 0 or (#left == 1 and string.match(left[1], '@0$')) then
  all = 0
end
redis.call('ZADD', KEYS[2], 'XX', math.max(0, all - freed), 'kept bytes')
return freed
