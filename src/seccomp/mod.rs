//! Seccomp: typed policies, compiled to BPF.
