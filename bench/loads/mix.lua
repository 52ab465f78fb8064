-- Eight of ten read one user, one reads the first page, one creates a user.
-- Arguments: a file of users' paths, a file with the first page's path, a seed, a tag that no other run has.

local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")
local users, first, write

function init(args)
   users = common.reads(args[1])
   first = common.reads(args[2])[1]
   math.randomseed(tonumber(args[3]))
   write = common.writes(args[4])
end

function request()
   local kind = math.random(10)
   if kind == 1 then
      return first
   elseif kind == 2 then
      return write()
   end
   return users[math.random(#users)]
end

done = common.done
