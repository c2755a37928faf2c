//! A clean history passes; one minimal bad history per invariant is found.
