-- 80 % of the requests read one user, 10 % read the first page, 10 % create a user.
-- Arguments: a file of users' paths, a file with the path of the first page, a seed, a tag that is unique to the run.

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
