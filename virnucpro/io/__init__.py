"""Files, tables, HDF5 and the other results."""
