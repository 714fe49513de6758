//! Differences that were found, as the shortened lists that showed them.

use super::check;
use super::step::Change::*;
use super::step::Step::{self, Change as C, Op as O};
use crate::op::Op::*;
use crate::op::Rename as How;
