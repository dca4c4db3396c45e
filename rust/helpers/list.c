// SPDX-License-Identifier: GPL-2.0

#include <linux/list.h>

void rust_helper_list_add_tail(struct list_head *entry, struct list_head *head)
{
	list_add_tail(entry, head);
}

void rust_helper_list_del(struct list_head *entry)
{
	list_del(entry);
}
