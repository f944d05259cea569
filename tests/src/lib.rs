//! System tests of oncelog.
