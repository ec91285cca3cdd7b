-- notice: some of what was acknowledged was recalled or is lost: agree with everybody who counts the same on when that was
-- noticed, and on what was recalled by then.
--
-- KEYS[1]  what was acknowledged; see ack.lua
-- ARGV[1]  the "version" in it when it was read
--
-- Returns Unix microseconds; how many claims and messages were recalled; when the first and the last of these claims was
-- made, Unix ms, 0 if there are none. All of it stays the same until settle.lua was told: by that it's noted once,
-- whoever dies on the way. Nothing if something was recalled or settled since it was read: count again.

local acked = KEYS[1]
local PARTS = {'claims', 'messages', 'first', 'last'}

local function counted(member)
  return tonumber(redis.call('ZSCORE', acked, member) or 0)
end
if counted('version') ~= tonumber(ARGV[1]) then
  return {}
end
local noticed = counted('noticed')
if noticed == 0 then
  local time = redis.call('TIME')
  noticed = time[1] * 1000000 + time[2]
  redis.call('ZADD', acked, string.format('%.0f', noticed), 'noticed')
  for _, part in ipairs(PARTS) do
    redis.call('ZADD', acked, counted('recalled ' .. part), 'noticed ' .. part)
    redis.call('ZADD', acked, 0, 'recalled ' .. part)
  end
end
local found = {string.format('%.0f', noticed)}
for _, part in ipairs(PARTS) do
  found[#found + 1] = string.format('%.0f', counted('noticed ' .. part))
end
return found
