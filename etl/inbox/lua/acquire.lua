-- acquire: take a lock, or renew it if it's ours.
--
-- KEYS[1]  the lock
-- ARGV[1]  the holder
-- ARGV[2]  the lease, ms
--
-- Returns 1 if the lock is ours now, else 0; and this server's time, Unix ms, 0 if our user may not use TIME.

-- The longest lease that there is, ms. A lock that lasts longer is from before this server's clock was set back: a lease
-- begins now, in which its holder renews it if it's alive; so it does if somebody made the lock last for ever. Who may
-- not use PTTL waits for it.
local LONGEST_LEASE = 3600000

local time = redis.pcall('TIME')
local now = time.err and 0 or time[1] * 1000 + math.floor(time[2] / 1000)

local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2]) -- a full Redis refuses SET, but not this
  return {1, now}
end
local left = holder and redis.pcall('PTTL', KEYS[1])
if holder then
  if type(left) == 'number' and (left > LONGEST_LEASE or left == -1) then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
  return {0, now}
end
-- There is nothing to renew and to release yet: who may do neither doesn't take it.
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return {1, now}
