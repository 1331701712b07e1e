"""What differs between two runs of the same: a comparison of results leaves it out."""

MEASURED = {"seconds", "energy", "idle_power", "peak_host_memory", "peak_device_memory"}
