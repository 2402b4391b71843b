"""Laws that are one formula with a few constants, one file each; the table is LAWS in laws."""
