"""Which replica gets a request. The live gateway and `bench/routing` call the same functions."""
