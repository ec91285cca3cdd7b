-- settle: what was recalled or lost is noted in Postgres: don't count what is lost as acknowledged any more.
--
-- KEYS[1]  what was acknowledged; see ack.lua
-- ARGV[1]  when it was noticed, as notice.lua gave it
-- ARGV[2…] by how much to lower which member: amount, member, amount, member …
--
-- Returns 1; 0 if another has settled it.

local acked = KEYS[1]

local function counted(member)
  return tonumber(redis.call('ZSCORE', acked, member) or 0)
end
if counted('noticed') ~= tonumber(ARGV[1]) then
  return 0
end
redis.call('ZADD', acked, 0, 'noticed')
redis.call('ZADD', acked, 0, 'noticed claims')
redis.call('ZADD', acked, counted('version') + 1, 'version')
for i = 2, #ARGV, 2 do
  redis.call('ZADD', acked, 'XX', math.max(0, counted(ARGV[i + 1]) - ARGV[i]), ARGV[i + 1])
end
return 1
