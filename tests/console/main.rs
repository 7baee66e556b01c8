//! The console, over HTTP and in a browser. `make test` runs a bounded part, `make test-console` all of it.

mod actions;
mod browser;
mod pages;
mod processes;
mod size;
mod stage;
