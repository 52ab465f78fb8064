//! Limits of the system and of the service: no client can lock out the others.

use crate::cases;

cases![];
