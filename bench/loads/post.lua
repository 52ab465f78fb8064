-- Creates users. Arguments: a tag that no other run has.

local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")

function init(args)
   request = common.writes(args[1])
end

done = common.done
