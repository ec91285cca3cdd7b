-- notice: some of what was acknowledged is lost: agree with everybody who counts the same on when that was noticed.
--
-- KEYS[1]  what was acknowledged; see ack.lua
-- ARGV[1]  the "version" in it when it was read
--
-- Returns Unix microseconds, the same until settle.lua was told: by that the loss is noted once. 0 if something was
-- recalled or settled since it was read: count again.

local acked = KEYS[1]

if tonumber(redis.call('ZSCORE', acked, 'version') or 0) ~= tonumber(ARGV[1]) then
  return '0'
end
local noticed = tonumber(redis.call('ZSCORE', acked, 'noticed') or 0)
if noticed == 0 then
  local time = redis.call('TIME')
  noticed = time[1] * 1000000 + time[2]
  redis.call('ZADD', acked, string.format('%.0f', noticed), 'noticed')
end
return string.format('%.0f', noticed)
