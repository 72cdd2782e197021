"""One published method, one file, its paper's symbols. Files here do not import each other."""
