-- Writes one batch into a region, or nothing: checks first, writes last.
--
-- KEYS: meta, policies, feed, digests, then the buckets.
-- ARGV: lineage, generation, epoch, fence, from, to, feed length, frame, its signature;
--       the number of meta fields, and of each name and value;
--       the number of digests, and of each offset and bytes;
--       then per entry: number of its key in KEYS, field, generation, rev, value.
--
-- Positions stay strings wherever they are written. They are below 2^53, so numbers are
-- exact where they are compared.
--
-- Others may be able to write here too. What they put in the way (a key of another type, a
-- feed that seems to be further) makes room, so that no script stops half way; what they
-- changed in meta or in an entry is refused here, and repaired by the projector.

local lineage, generation, epoch, fence = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local from, to = ARGV[5], ARGV[6]

local function make_room(key, kind)
  local found = redis.call('TYPE', key)['ok']
  if found ~= kind and found ~= 'none' then
    redis.call('DEL', key)
  end
end

make_room(KEYS[1], 'hash')
local meta = redis.call('HMGET', KEYS[1], 'lineage', 'generation', 'epoch', 'fence', 'position')
if meta[1] then
  if tonumber(fence) < (tonumber(meta[4]) or 0) then
    return { 'fenced' }
  end
  if tonumber(generation) < (tonumber(meta[2]) or 0)
    or (generation == meta[2] and lineage ~= meta[1]) then
    return { 'refused', 'the region belongs to another lineage' }
  end
  if epoch ~= meta[3] or generation ~= meta[2] or from ~= meta[5] then
    return { 'elsewhere' }
  end
elseif from ~= '0' then
  return { 'elsewhere' }
end

local metas = 11
local digests = metas + 2 * tonumber(ARGV[10]) + 1
local entries = digests + 2 * tonumber(ARGV[digests - 1])

for i = entries, #ARGV, 5 do
  make_room(KEYS[tonumber(ARGV[i])], 'hash')
end
local absorbing = { revoked = true, ended = true, purged = true }
for i = entries, #ARGV, 5 do
  local key, field, gen, rev = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local stored = redis.call('HGET', key, field)
  -- What cannot be read is no entry: the new one mends it, and nothing else stands still.
  local is_entry, old = pcall(cjson.decode, stored or '')
  if stored and is_entry and type(old) == 'table'
    and type(old.generation) == 'number' and type(old.rev) == 'number' then
    if tonumber(gen) < old.generation
      or (tonumber(gen) == old.generation and tonumber(rev) <= old.rev) then
      return { 'refused', 'an entry of ' .. field .. ' is not newer than the stored one' }
    end
    if absorbing[old.status] and not absorbing[cjson.decode(ARGV[i + 4]).status] then
      return { 'refused', 'the entry of ' .. field .. ' is off for good' }
    end
  end
end

for i = entries, #ARGV, 5 do
  redis.call('HSET', KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 4])
end
make_room(KEYS[4], 'string')
for i = digests, entries - 1, 2 do
  redis.call('SETRANGE', KEYS[4], ARGV[i], ARGV[i + 1])
end
local added = redis.pcall('XADD', KEYS[3], to .. '-0', 'frame', ARGV[8], 'signature', ARGV[9])
if type(added) == 'table' and added.err then
  redis.call('DEL', KEYS[3])
  redis.call('XADD', KEYS[3], to .. '-0', 'frame', ARGV[8], 'signature', ARGV[9])
end
-- Ids are positions, so this keeps the frames of the newest positions.
local oldest = tonumber(to) - tonumber(ARGV[7])
if oldest > 0 then
  redis.call('XTRIM', KEYS[3], 'MINID', '~', string.format('%.0f', oldest))
end
-- The signature covers all fields, so none may be left over.
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], unpack(ARGV, metas, digests - 2))
return { 'applied' }
