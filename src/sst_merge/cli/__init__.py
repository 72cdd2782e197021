"""Command line. Commands are imported when they run, so that help costs nothing."""
