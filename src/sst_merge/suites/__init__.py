"""What models are asked: suites, the data sets they read, and how an answer is scored."""
