-- adopt: take over a claim in place, same batch_id, same content, because its lease has run out or its worker came back.
--
-- KEYS[1]  the claim's list
-- KEYS[2]  the registry of claims of this source
-- ARGV[1]  "<batch_id>@<worker>" as it stands in the registry
-- ARGV[2]  "<batch_id>@<worker>" of the new holder
-- ARGV[3]  the lease, ms
-- ARGV[4]  "any" to adopt before the deadline too (the worker's own, from an earlier life), else "expired"
--
-- Returns the messages, the oldest first; nil if the claim isn't there to be adopted any more.

-- The longest lease that there is, ms. A deadline further ahead is from before this server's clock was set back.
local LONGEST_LEASE = 3600000

local deadline = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not deadline then
  return nil
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local left = tonumber(deadline) - now
if ARGV[4] ~= 'any' and left > 0 and left <= LONGEST_LEASE then
  return nil
end
local messages = redis.pcall('LRANGE', KEYS[1], 0, -1)
if messages.err and not string.find(messages.err, 'WRONGTYPE', 1, true) then
  return messages
end
redis.call('ZREM', KEYS[2], ARGV[1])
if #messages == 0 then -- gone, or never a list
  return nil
end
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[2])
return messages
