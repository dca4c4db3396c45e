/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The program that runs in the virtual machine. It walks forever over a power of two of pages,
 * checks that each has the word that the last round wrote, and writes the word that the next round
 * expects.
 *
 * On the serial port it prints a dot after each sixteenth of a round but the last, and a letter
 * after the last: 'a' after the first round, 'b' after the second. If a page is wrong it prints an
 * 'X' with the address, what should be there and what is there, and stops.
 *
 * A Multiboot 1 image at a fixed address, entered in 32-bit protected mode with flat segments and
 * without paging. All addresses are differences of labels plus LOAD, so there are no relocations,
 * and the bytes between postcopy_guest_start and postcopy_guest_end can be written to a file as
 * they are.
 */
	.set	.Lmagic, 0x1badb002
	.set	.Lflags, 0x00010002	/* Addresses are in the header; tell the size of memory. */
	.set	.Lload, 0x100000
	.set	.Lstack, 0x110000
	.set	.Larea, 0x200000
	.set	.Lpage_shift, 12
	.set	.Lline, 64		/* One word is checked in each so many bytes. */
	.set	.Lround_shift, 20	/* Above the number of a page. */
	.set	.Lmix, 0x9e3779b1	/* Odd, so no two (round, page) have the same value. */
	.set	.Lstep, 2654435		/* Odd, so it visits all pages, in no order that prefetching likes. */
	.set	.Lserial, 0x3f8
	.set	.Lserial_status, 0x3fd

	.pushsection .rodata.postcopy_guest, "a", @progbits
	.balign	4
	.globl	postcopy_guest_start
	.globl	postcopy_guest_end
	.code32
postcopy_guest_start:
	.long	.Lmagic
	.long	.Lflags
	.long	-(.Lmagic + .Lflags)
	.long	.Lload						/* of this header */
	.long	.Lload						/* of the image */
	.long	.Lload + (postcopy_guest_end - postcopy_guest_start)
	.long	0						/* no .bss */
	.long	.Lload + (.Lentry - postcopy_guest_start)

	/*
	 * ebx: pages, a power of two
	 * ebp: the round; 1 only writes
	 * esi: the page
	 * ecx: pages left in this round
	 * edi: address of the word
	 * edx: the word as the last round left it
	 * eax: the word as this round leaves it
	 */
.Lentry:
	cli
	cld
	movl	$.Lstack, %esp
	movl	8(%ebx), %eax			/* KiB from 1 MiB on */
	shrl	$.Lpage_shift - 10, %eax
	bsrl	%eax, %ecx
	movl	$1, %ebx
	shll	%cl, %ebx
	xorl	%esi, %esi
	movl	$1, %ebp

.Lround:
	movl	%ebx, %ecx
.Lpage:
	movl	%esi, %edi
	shll	$.Lpage_shift, %edi
	addl	$.Larea, %edi
	leal	-1(%ebp), %edx
	shll	$.Lround_shift, %edx
	addl	%esi, %edx
	imull	$.Lmix, %edx, %edx
	leal	(.Lmix << .Lround_shift) & 0xffffffff(%edx), %eax
	cmpl	$1, %ebp
	je	.Lwrite
.Lcheck:
	cmpl	%edx, (%edi)
	jne	.Lwrong
	movl	%eax, (%edi)
	incl	%edx
	incl	%eax
	addl	$.Lline, %edi
	testl	$(1 << .Lpage_shift) - 1, %edi
	jnz	.Lcheck
	jmp	.Lnext
.Lwrite:
	movl	%eax, (%edi)
	incl	%eax
	addl	$.Lline, %edi
	testl	$(1 << .Lpage_shift) - 1, %edi
	jnz	.Lwrite
.Lnext:
	addl	$.Lstep, %esi
	leal	-1(%ebx), %edx
	andl	%edx, %esi
	decl	%ecx
	shrl	$4, %edx			/* pages / 16 - 1 */
	testl	%edx, %ecx
	jnz	.Lpage
	cmpl	$1, %ebp			/* No sign of the round that checks nothing. */
	je	.Lsilent
	movb	$'.', %al
	testl	%ecx, %ecx
	jnz	.Lsign
	leal	-2(%ebp), %eax
	xorl	%edx, %edx
	movl	$26, %edi
	divl	%edi
	leal	'a'(%edx), %eax
.Lsign:
	call	.Lput
.Lsilent:
	testl	%ecx, %ecx
	jnz	.Lpage
	incl	%ebp
	jmp	.Lround

.Lwrong:
	movl	(%edi), %ebx
	movb	$'X', %al
	call	.Lput
	movl	%edx, %esi
	movl	%edi, %edx
	call	.Lput_number
	movl	%esi, %edx
	call	.Lput_number
	movl	%ebx, %edx
	call	.Lput_number
	movb	$'\n', %al
	call	.Lput
.Lstop:
	hlt
	jmp	.Lstop

	/* Prints a space and %edx in hexadecimal; changes %eax, %ecx, %edx. */
.Lput_number:
	movb	$' ', %al
	call	.Lput
	movl	$8, %ecx
.Ldigit:
	roll	$4, %edx
	movb	%dl, %al
	andb	$15, %al
	addb	$'0', %al
	cmpb	$'9', %al
	jbe	.Lput_digit
	addb	$'a' - '0' - 10, %al
.Lput_digit:
	call	.Lput
	decl	%ecx
	jnz	.Ldigit
	ret

	/* Prints %al. */
.Lput:
	pushl	%edx
	pushl	%eax
	movl	$.Lserial_status, %edx
.Lbusy:
	inb	%dx, %al
	testb	$0x20, %al
	jz	.Lbusy
	popl	%eax
	movl	$.Lserial, %edx
	outb	%al, %dx
	popl	%edx
	ret
postcopy_guest_end:
	.code64
	.popsection
