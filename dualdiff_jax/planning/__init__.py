"""Plans: programs compiled for devices that are not here, with their memory, operations, traffic and roofline."""
