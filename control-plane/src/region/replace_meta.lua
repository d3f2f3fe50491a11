-- Puts a meta in place of one that nobody of ours wrote, if that is still there.
--
-- KEYS: meta, digests.
-- ARGV: the signature that was seen, the digests, then name and value of each field to write.

if redis.call('TYPE', KEYS[1])['ok'] == 'hash' then
  local signature = redis.call('HGET', KEYS[1], 'signature')
  -- Something else than a signature is nobody's.
  if signature and #signature == 128 and signature ~= ARGV[1] then
    return 0
  end
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('SET', KEYS[2], ARGV[2])
return 1
