//! Reads the TOML file.
