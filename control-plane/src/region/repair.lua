-- Puts back what somebody changed beside the projector.
--
-- KEYS: meta, policies, digests, then buckets.
-- ARGV: epoch, fence, the digests ('' leaves them), then per field: number of its key in
--       KEYS, field, value ('' removes the field).

local meta = redis.call('HMGET', KEYS[1], 'epoch', 'fence')
if meta[1] ~= ARGV[1] or tonumber(ARGV[2]) < (tonumber(meta[2]) or 0) then
  return 0
end
for i = 4, #ARGV, 3 do
  local key = KEYS[tonumber(ARGV[i])]
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'hash' and found ~= 'none' then
    redis.call('DEL', key)
  end
  if ARGV[i + 2] == '' then
    redis.call('HDEL', key, ARGV[i + 1])
  else
    redis.call('HSET', key, ARGV[i + 1], ARGV[i + 2])
  end
end
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[3], ARGV[3])
end
return 1
