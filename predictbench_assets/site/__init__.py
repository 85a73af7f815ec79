"""The benchmark's page: a folder of files that any static host serves and that opens from the disk too."""
