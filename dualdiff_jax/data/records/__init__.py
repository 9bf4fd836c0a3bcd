"""What a record is, and how records are found in files, whatever the format of the files."""
