"""What an audit looks for, an idea a module; `registry` says which checks fit a task."""
