"""What every run of a command is made of: names, lock, log, record, publishing, tidying up."""
