-- adopt: take over a claim in place, same batch_id, same content, because its lease has run out or its worker came back.
--
-- KEYS[1]  the claim's list
-- KEYS[2]  the registry of claims of this source
-- KEYS[3]  what was claimed last; see claim.lua
-- ARGV[1]  "<batch_id>@<worker>" as it stands in the registry
-- ARGV[2]  "<batch_id>@<worker>" of the new holder
-- ARGV[3]  the lease, ms
-- ARGV[4]  "any" to adopt before the deadline too (the worker's own, from an earlier life), else "expired"
-- ARGV[5]  the most bytes of a piece (one message may exceed it)
-- ARGV[6]  the batch_id
--
-- Returns how many bytes all messages have, the running number of the first ("" if it has none), and then how many
-- messages each piece has, by which the new holder reads the claim, the oldest first; nil if the claim isn't there to be
-- adopted any more.

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
local length = redis.pcall('LLEN', KEYS[1])
if type(length) == 'table' then
  if not string.find(length.err, 'WRONGTYPE', 1, true) then
    return length
  end
  length = 0 -- never a claim
end

-- Few enough that as many of the largest messages fit into memory.
local CHUNK = 32
local pieces, count, bytes, all = {}, 0, 0, 0
for first = 0, length - 1, CHUNK do
  local messages = redis.call('LRANGE', KEYS[1], first, first + CHUNK - 1)
  for i = 1, #messages do
    if count > 0 and bytes + #messages[i] > tonumber(ARGV[5]) then
      pieces[#pieces + 1] = count
      count, bytes = 0, 0
    end
    all = all + #messages[i]
    count, bytes = count + 1, bytes + #messages[i]
  end
end

-- Tried before anything is changed, without effect: who may not write the registry leaves the claim as it is. And a
-- script that has written may go on when memory has run out.
redis.call('ZREM', KEYS[2], '\0')
redis.call('ZADD', KEYS[2], 'XX', 0, '\0')
if length == 0 then -- gone, or never a list
  redis.call('ZREM', KEYS[2], ARGV[1])
  return nil
end
pieces[#pieces + 1] = count
local number = redis.pcall('ZSCORE', KEYS[3], ARGV[6])
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[2])
if ARGV[2] ~= ARGV[1] then
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return {all, number and type(number) ~= 'table' and tonumber(number) or '', unpack(pieces)}
