// SPDX-License-Identifier: GPL-2.0

//! What bindgen makes of the headers of mm; and `include/linux/rbtree.h`, with a tree that is not
//! balanced. Loom cannot run C.

#![allow(non_camel_case_types, clippy::missing_safety_doc)]

pub use super::mm::*;
use core::ptr;

pub struct rb_node {
    parent: *mut rb_node,
    pub rb_right: *mut rb_node,
    pub rb_left: *mut rb_node,
}

impl Default for rb_node {
    fn default() -> Self {
        Self {
            parent: ptr::null_mut(),
            rb_right: ptr::null_mut(),
            rb_left: ptr::null_mut(),
        }
    }
}

pub struct rb_root {
    pub rb_node: *mut rb_node,
}

pub unsafe fn rb_link_node(node: *mut rb_node, parent: *mut rb_node, link: *mut *mut rb_node) {
    // SAFETY: The caller passes valid pointers.
    unsafe {
        node.write(rb_node {
            parent,
            ..Default::default()
        });
        *link = node;
    }
}

pub unsafe fn rb_insert_color(_node: *mut rb_node, _root: *mut rb_root) {}

/// Puts `new`, which may be null, in the place of `old`.
unsafe fn replace(old: *mut rb_node, new: *mut rb_node, root: *mut rb_root) {
    // SAFETY: The caller passes nodes of the tree.
    unsafe {
        let parent = (*old).parent;
        if parent.is_null() {
            (*root).rb_node = new;
        } else if ptr::eq((*parent).rb_left, old) {
            (*parent).rb_left = new;
        } else {
            (*parent).rb_right = new;
        }
        if !new.is_null() {
            (*new).parent = parent;
        }
    }
}

pub unsafe fn rb_erase(node: *mut rb_node, root: *mut rb_root) {
    // SAFETY: The caller passes a node of the tree.
    unsafe {
        if (*node).rb_left.is_null() {
            replace(node, (*node).rb_right, root);
        } else if (*node).rb_right.is_null() {
            replace(node, (*node).rb_left, root);
        } else {
            let next = first((*node).rb_right);
            if !ptr::eq((*next).parent, node) {
                replace(next, (*next).rb_right, root);
                (*next).rb_right = (*node).rb_right;
                (*(*next).rb_right).parent = next;
            }
            replace(node, next, root);
            (*next).rb_left = (*node).rb_left;
            (*(*next).rb_left).parent = next;
        }
    }
}

/// Returns the first node below `node`.
unsafe fn first(mut node: *mut rb_node) -> *mut rb_node {
    // SAFETY: The caller passes a node of the tree.
    unsafe {
        while !(*node).rb_left.is_null() {
            node = (*node).rb_left;
        }
    }
    node
}

pub unsafe fn rb_next(mut node: *mut rb_node) -> *mut rb_node {
    // SAFETY: The caller passes a node of the tree.
    unsafe {
        if !(*node).rb_right.is_null() {
            return first((*node).rb_right);
        }
        while !(*node).parent.is_null() && ptr::eq((*(*node).parent).rb_right, node) {
            node = (*node).parent;
        }
        (*node).parent
    }
}
