"""What a record is, and how one is found in files of any format."""
