SELECT bearmq.sweep_v1()
