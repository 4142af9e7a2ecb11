"""Identity's rules, one file per noun. A service takes the caller and the request's transaction."""
