-- rescue: register a claim list that no registry entry names, as a claim whose lease has run out.
--
-- KEYS[1]  the orphaned list, "<…>:claim:<batch_id>"
-- KEYS[2]  the list it becomes: itself, or another if its name is no batch_id of ours
-- KEYS[3]  the registry of claims of this source
-- KEYS[4]  what was claimed last; see claim.lua
-- ARGV[1]  the batch_id of the orphaned list
-- ARGV[2]  "<batch_id>@<worker>" of the new claim
-- ARGV[3]  the time in the new batch_id, Unix ms, as next.lua gave it; "" if it's that of the orphan's batch_id
--
-- Returns 1, or 0 if the list is gone or is registered after all.

local NOBODY = '\0' -- of no sorted set a member

for _, member in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if string.sub(member, 1, #ARGV[1] + 1) == ARGV[1] .. '@' then
    return 0
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local noted = false
if ARGV[3] ~= '' then
  noted = redis.pcall('ZSCORE', KEYS[4], 'last')
  if noted and type(noted) ~= 'table' and tonumber(noted) >= tonumber(ARGV[3]) then
    return redis.error_reply('OVERTAKEN another worker has claimed meanwhile: ask for the next time')
  end
end
-- Tried before anything is changed, without effect; and a script that has written may go on when memory has run out.
redis.call('ZREM', KEYS[3], NOBODY)
redis.call('ZADD', KEYS[3], 'XX', 0, NOBODY)
local notes = ARGV[3] ~= '' and type(noted) ~= 'table' and type(redis.pcall('ZADD', KEYS[4], 'XX', 0, NOBODY)) ~= 'table'
if KEYS[1] ~= KEYS[2] then
  redis.call('RENAME', KEYS[1], KEYS[2])
end
redis.call('ZADD', KEYS[3], 0, ARGV[2])
if notes then
  redis.call('ZADD', KEYS[4], ARGV[3], 'last')
end
return 1
