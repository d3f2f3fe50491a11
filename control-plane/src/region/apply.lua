-- Writes one batch into a region, or nothing: checks first, writes last.
--
-- KEYS: meta, policies, feed, then the buckets.
-- ARGV: lineage, generation, epoch, fence, from, to, chain_hash, as_of_ms, frame,
--       feed length, then per entry: number of its key in KEYS, field, generation, rev,
--       value.
--
-- Positions stay strings wherever they are written. They are below 2^53, so numbers are
-- exact where they are compared.

local lineage, generation, epoch, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local from, to = ARGV[5], ARGV[6]

local meta = redis.call('HMGET', KEYS[1], 'lineage', 'generation', 'epoch', 'fence', 'position')
if meta[1] then
  if tonumber(fence) < tonumber(meta[4]) then
    return { 'fenced' }
  end
  if tonumber(generation) < tonumber(meta[2])
    or (generation == meta[2] and lineage ~= meta[1]) then
    return { 'refused', 'the region belongs to another lineage' }
  end
  if epoch ~= meta[3] or generation ~= meta[2] or from ~= meta[5] then
    return { 'elsewhere' }
  end
elseif from ~= '0' then
  return { 'elsewhere' }
end

local absorbing = { revoked = true, ended = true, purged = true }
for i = 11, #ARGV, 5 do
  local key, field, gen, rev = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local stored = redis.call('HGET', key, field)
  -- What cannot be read is no entry: the new one mends it, and nothing else stands still.
  local is_entry, old = pcall(cjson.decode, stored or '')
  if stored and is_entry and type(old) == 'table' and old.generation and old.rev then
    if tonumber(gen) < old.generation
      or (tonumber(gen) == old.generation and tonumber(rev) <= old.rev) then
      return { 'refused', 'an entry of ' .. field .. ' is not newer than the stored one' }
    end
    if absorbing[old.status] and not absorbing[cjson.decode(ARGV[i + 4]).status] then
      return { 'refused', 'the entry of ' .. field .. ' is off for good' }
    end
  end
end

for i = 11, #ARGV, 5 do
  redis.call('HSET', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 4])
end
redis.call('XADD', KEYS[3], to .. '-0', 'frame', ARGV[9])
-- Ids are positions, so this keeps the frames of the newest positions.
local oldest = tonumber(to) - tonumber(ARGV[10])
if oldest > 0 then
  redis.call('XTRIM', KEYS[3], 'MINID', '~', string.format('%.0f', oldest))
end
redis.call('HSET', KEYS[1], 'lineage', lineage, 'generation', generation, 'epoch', epoch,
  'fence', fence, 'position', to, 'chain_hash', ARGV[7], 'as_of_ms', ARGV[8])
return { 'applied' }
