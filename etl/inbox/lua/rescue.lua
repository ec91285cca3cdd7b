-- rescue: register a claim list that no registry entry names, as a claim whose lease has run out.
--
-- KEYS[1]  the orphaned list, "<…>:claim:<batch_id>"
-- KEYS[2]  the list it becomes, under a batch_id that was never used: the old one may be in the ledger
-- KEYS[3]  the registry of claims of this source
-- KEYS[4]  of which claim the time was last: sorted set with the one member "last", scored by Unix ms
-- ARGV[1]  the batch_id of the orphaned list
-- ARGV[2]  "<batch_id>@<worker>" of the new claim
-- ARGV[3]  the time in the new batch_id, Unix ms, as next.lua gave it; "" if it's that of the orphan's batch_id
--
-- Returns 1, or 0 if the list is gone or is registered after all.

for _, member in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if string.sub(member, 1, #ARGV[1] + 1) == ARGV[1] .. '@' then
    return 0
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if ARGV[3] ~= '' then
  local noted = redis.call('ZSCORE', KEYS[4], 'last')
  if noted and tonumber(noted) >= tonumber(ARGV[3]) then
    return redis.error_reply('OVERTAKEN another worker has claimed meanwhile: ask for the next time')
  end
end
redis.call('RENAME', KEYS[1], KEYS[2]) -- first: a full Redis refuses ZADD, but not in a script that has written
redis.call('ZADD', KEYS[3], 0, ARGV[2])
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[4], ARGV[3], 'last')
end
return 1
