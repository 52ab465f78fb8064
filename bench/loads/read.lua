-- Reads random paths. Arguments: a file of paths, a seed.

local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")
local requests

function init(args)
   math.randomseed(tonumber(args[2]))
   requests = common.reads(args[1])
end

function request()
   return requests[math.random(#requests)]
end

done = common.done
