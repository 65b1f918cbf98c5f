//! The migrations are compiled in: a new one must be noticed.

fn main() {
    println!("cargo:rerun-if-changed=../../../migrations/payment");
    println!("cargo:rerun-if-changed=../../../migrations/worker");
}
