-- rescue: register a claim list that no registry entry names, as a claim whose lease has run out.
--
-- KEYS[1]  the orphaned list, "<…>:claim:<batch_id>"
-- KEYS[2]  the list it becomes, under a batch_id that was never used: the old one may be in the ledger
-- KEYS[3]  the registry of claims of this source
-- ARGV[1]  the batch_id of the orphaned list
-- ARGV[2]  "<batch_id>@<worker>" of the new claim
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
redis.call('RENAME', KEYS[1], KEYS[2])
redis.call('ZADD', KEYS[3], 0, ARGV[2])
return 1
