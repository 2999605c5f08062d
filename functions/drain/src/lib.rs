//! Turns a termination that a lifecycle hook holds into a node without pods, and lets it go.
