-- recall: Postgres has forgotten a claim that was acknowledged: make its kept messages that claim again, its lease over.
--
-- KEYS[1]  the list that keeps the messages
-- KEYS[2]  the claim's list
-- KEYS[3]  the registry of claims of this source
-- KEYS[4]  the kept claims of this source; see ack.lua
-- KEYS[5]  what was acknowledged; see ack.lua
-- ARGV[1]  the entry in KEYS[4], "<batch_id>@<bytes>"
-- ARGV[2]  "<batch_id>@recalled"
-- ARGV[3]  the UTC day of the claim
-- ARGV[4]  when it was made, Unix ms
--
-- What came back is counted in KEYS[5] until settle.lua is told that it's noted; see notice.lua.
-- Returns how many messages came back; 0 if they are gone, -1 if they are back already.

local NOBODY = '\0' -- of no sorted set a member
local list, claim, registry, kept, acked = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

if redis.call('EXISTS', claim) == 1 then
  return -1
end
local count = redis.pcall('LLEN', list)
if type(count) == 'table' then
  if not string.find(count.err, 'WRONGTYPE', 1, true) then
    return count
  end
  count = 0 -- another program's
end
if count == 0 then
  return 0
end
local bytes = tonumber(string.match(ARGV[1], '@(%d+)$')) or 0

local function counted(member)
  return tonumber(redis.call('ZSCORE', acked, member) or 0)
end
local claims, messages, all = counted('claims:' .. ARGV[3]), counted('messages:' .. ARGV[3]), counted('kept bytes')

-- Tried before anything is changed, without effect; and a script that has written may go on when memory has run out.
redis.call('ZREM', registry, NOBODY)
redis.call('ZREM', kept, NOBODY)
redis.call('ZADD', registry, 'XX', 0, NOBODY)
redis.call('ZADD', acked, 'XX', 0, NOBODY)
redis.call('PERSIST', list) -- first: a claim never expires. The list still goes when its time is over; see drop.lua
redis.call('RENAME', list, claim)
redis.call('ZADD', registry, 0, ARGV[2])
redis.call('ZREM', kept, ARGV[1])
redis.call('ZADD', acked, 'XX', math.max(0, claims - 1), 'claims:' .. ARGV[3])
redis.call('ZADD', acked, 'XX', math.max(0, messages - count), 'messages:' .. ARGV[3])
redis.call('ZADD', acked, 'XX', math.max(0, all - bytes), 'kept bytes')
redis.call('ZADD', acked, counted('version') + 1, 'version') -- see notice.lua
local before, made = counted('recalled claims'), tonumber(ARGV[4])
redis.call('ZADD', acked, before + 1, 'recalled claims')
redis.call('ZADD', acked, counted('recalled messages') + count, 'recalled messages')
redis.call('ZADD', acked, before > 0 and math.min(counted('recalled first'), made) or made, 'recalled first')
redis.call('ZADD', acked, before > 0 and math.max(counted('recalled last'), made) or made, 'recalled last')
return count
