# A 32-bit program without a libc, so that no 32-bit one is needed: it prints "ready", then
# reads stdin until it ends.
#   i386: as --32 wait32.s, ld -m elf_i386; with --defsym SPIN=1 it reads nothing and runs
#   x32:  as --x32 --defsym X32=1 wait32.s, ld -m elf32_x86_64

	.section .rodata
text:	.ascii	"ready\n"
	.lcomm	buffer, 64

	.text
	.globl	_start
.ifdef X32
	.set	X32_BIT, 0x40000000
_start:	mov	$X32_BIT + 1, %eax		# write
	mov	$1, %edi
	mov	$text, %esi
	mov	$6, %edx
	syscall
again:	mov	$X32_BIT + 0, %eax		# read
	xor	%edi, %edi
	mov	$buffer, %esi
	mov	$64, %edx
	syscall
	test	%eax, %eax
	jg	again
	mov	$X32_BIT + 60, %eax		# exit
	xor	%edi, %edi
	syscall
.else
_start:	mov	$4, %eax			# write
	mov	$1, %ebx
	mov	$text, %ecx
	mov	$6, %edx
	int	$0x80
.ifdef SPIN
	mov	$0x12345678, %esi
spin:	cmp	$0x12345678, %esi
	je	spin
	ud2
.endif
again:	mov	$3, %eax			# read
	xor	%ebx, %ebx
	mov	$buffer, %ecx
	mov	$64, %edx
	int	$0x80
	test	%eax, %eax
	jg	again
	mov	$1, %eax			# exit
	xor	%ebx, %ebx
	int	$0x80
.endif
