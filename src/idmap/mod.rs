//! Id maps: parsing, algebra, allocation, user namespaces and idmapped mounts.
