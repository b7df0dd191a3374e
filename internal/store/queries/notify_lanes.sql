SELECT bearmq.notify_lanes_v1($1, NULL)
