//! What is kept on disk: durable records and run records.
