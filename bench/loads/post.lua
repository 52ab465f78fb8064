-- Creates users. Arguments: a tag that is unique to the run.

local common = dofile(debug.getinfo(1, "S").source:match("^@(.*/)") .. "common.lua")

function init(args)
   request = common.writes(args[1])
end

done = common.done
