"""Whether a run can begin: what it needs of the machine, of the disks and of the data, looked at before it costs."""
