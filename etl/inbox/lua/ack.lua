-- ack: delete a claim that is committed in Postgres, all of it or nothing.
--
-- KEYS[1]  the claim's list
-- KEYS[2]  the registry of claims of this source
-- ARGV[1]  "<batch_id>@<worker>"
--
-- Returns 1, or 0 if the claim isn't this worker's any more: whoever adopted it finds it in the ledger and acknowledges.

if not redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return 0
end
redis.call('ZREM', KEYS[2], '\0') -- no member of ours: fails before anything is deleted, if we may not
redis.call('UNLINK', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
