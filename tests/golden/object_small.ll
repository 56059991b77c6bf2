target triple = "thumbv8.1m.main-unknown-none-eabihf"

define internal void @k0_conv2d_add_relu(ptr %m0., ptr %m1., ptr %m2., ptr %m3.) nounwind noredzone {
entry:
  br label %loop1
loop1:
  %c.phi = phi i32 [0, %entry], [%c.next, %loop2.end]
  %c.more = icmp slt i32 %c.phi, 4
  br i1 %c.more, label %loop1.body, label %loop1.end
loop1.body:
  %c = add i32 %c.phi, 0
  %c.0 = mul nsw i32 %c, 4
  %t1 = getelementptr float, ptr %m0., i32 %c
  %t20 = getelementptr float, ptr %m2., i32 %c
  %t23 = getelementptr float, ptr %m3., i32 %c.0
  br label %loop2
loop2:
  %y.phi = phi i32 [0, %loop1.body], [%y.next, %loop3.end]
  %y.more = icmp slt i32 %y.phi, 2
  br i1 %y.more, label %loop2.body, label %loop2.end
loop2.body:
  %y = add i32 %y.phi, 0
  %y.0 = mul nsw i32 %y, 3
  %y.1 = mul nsw i32 %y, 2
  %t2 = getelementptr float, ptr %m1., i32 %y.0
  %t24 = getelementptr float, ptr %t23, i32 %y.1
  br label %loop3
loop3:
  %x.phi = phi i32 [0, %loop2.body], [%x.next, %loop3.body]
  %x.more = icmp slt i32 %x.phi, 2
  br i1 %x.more, label %loop3.body, label %loop3.end
loop3.body:
  %x = add i32 %x.phi, 0
  %v1 = load <4 x float>, ptr %t1, align 4
  %t3 = getelementptr float, ptr %t2, i32 %x
  %v2 = load float, ptr %t3, align 4
  %t4 = insertelement <4 x float> poison, float %v2, i64 0
  %v3 = shufflevector <4 x float> %t4, <4 x float> poison, <4 x i32> zeroinitializer
  %t5 = getelementptr float, ptr %t3, i32 1
  %v4 = load float, ptr %t5, align 4
  %t6 = insertelement <4 x float> poison, float %v4, i64 0
  %v5 = shufflevector <4 x float> %t6, <4 x float> poison, <4 x i32> zeroinitializer
  %v6 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v3, <4 x float> %v1, <4 x float> splat (float 0x0000000000000000))
  %v7 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v5, <4 x float> %v1, <4 x float> splat (float 0x0000000000000000))
  %t7 = getelementptr float, ptr %t1, i32 4
  %v8 = load <4 x float>, ptr %t7, align 4
  %v9 = load float, ptr %t5, align 4
  %t8 = insertelement <4 x float> poison, float %v9, i64 0
  %v10 = shufflevector <4 x float> %t8, <4 x float> poison, <4 x i32> zeroinitializer
  %t9 = getelementptr float, ptr %t3, i32 2
  %v11 = load float, ptr %t9, align 4
  %t10 = insertelement <4 x float> poison, float %v11, i64 0
  %v12 = shufflevector <4 x float> %t10, <4 x float> poison, <4 x i32> zeroinitializer
  %v13 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v10, <4 x float> %v8, <4 x float> %v6)
  %v14 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v12, <4 x float> %v8, <4 x float> %v7)
  %t11 = getelementptr float, ptr %t1, i32 8
  %v15 = load <4 x float>, ptr %t11, align 4
  %t12 = getelementptr float, ptr %t3, i32 3
  %v16 = load float, ptr %t12, align 4
  %t13 = insertelement <4 x float> poison, float %v16, i64 0
  %v17 = shufflevector <4 x float> %t13, <4 x float> poison, <4 x i32> zeroinitializer
  %t14 = getelementptr float, ptr %t3, i32 4
  %v18 = load float, ptr %t14, align 4
  %t15 = insertelement <4 x float> poison, float %v18, i64 0
  %v19 = shufflevector <4 x float> %t15, <4 x float> poison, <4 x i32> zeroinitializer
  %v20 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v17, <4 x float> %v15, <4 x float> %v13)
  %v21 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v19, <4 x float> %v15, <4 x float> %v14)
  %t16 = getelementptr float, ptr %t1, i32 12
  %v22 = load <4 x float>, ptr %t16, align 4
  %v23 = load float, ptr %t14, align 4
  %t17 = insertelement <4 x float> poison, float %v23, i64 0
  %v24 = shufflevector <4 x float> %t17, <4 x float> poison, <4 x i32> zeroinitializer
  %t18 = getelementptr float, ptr %t3, i32 5
  %v25 = load float, ptr %t18, align 4
  %t19 = insertelement <4 x float> poison, float %v25, i64 0
  %v26 = shufflevector <4 x float> %t19, <4 x float> poison, <4 x i32> zeroinitializer
  %v27 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v24, <4 x float> %v22, <4 x float> %v20)
  %v28 = call <4 x float> @llvm.fma.v4f32(<4 x float> %v26, <4 x float> %v22, <4 x float> %v21)
  %v29 = load <4 x float>, ptr %t20, align 4
  %v30 = fadd <4 x float> %v27, %v29
  %t21 = fcmp olt <4 x float> %v30, splat (float 0x0000000000000000)
  %v31 = select <4 x i1> %t21, <4 x float> splat (float 0x0000000000000000), <4 x float> %v30
  %t22 = extractelement <4 x float> %v31, i64 0
  %t25 = getelementptr float, ptr %t24, i32 %x
  store float %t22, ptr %t25, align 4
  %t26 = extractelement <4 x float> %v31, i64 1
  %t27 = getelementptr float, ptr %t25, i32 4
  store float %t26, ptr %t27, align 4
  %t28 = extractelement <4 x float> %v31, i64 2
  %t29 = getelementptr float, ptr %t25, i32 8
  store float %t28, ptr %t29, align 4
  %t30 = extractelement <4 x float> %v31, i64 3
  %t31 = getelementptr float, ptr %t25, i32 12
  store float %t30, ptr %t31, align 4
  %v32 = fadd <4 x float> %v28, %v29
  %t32 = fcmp olt <4 x float> %v32, splat (float 0x0000000000000000)
  %v33 = select <4 x i1> %t32, <4 x float> splat (float 0x0000000000000000), <4 x float> %v32
  %t33 = extractelement <4 x float> %v33, i64 0
  %t34 = getelementptr float, ptr %t25, i32 1
  store float %t33, ptr %t34, align 4
  %t35 = extractelement <4 x float> %v33, i64 1
  %t36 = getelementptr float, ptr %t25, i32 5
  store float %t35, ptr %t36, align 4
  %t37 = extractelement <4 x float> %v33, i64 2
  %t38 = getelementptr float, ptr %t25, i32 9
  store float %t37, ptr %t38, align 4
  %t39 = extractelement <4 x float> %v33, i64 3
  %t40 = getelementptr float, ptr %t25, i32 13
  store float %t39, ptr %t40, align 4
  %x.next = add nsw i32 %x.phi, 2
  br label %loop3
loop3.end:
  %y.next = add nsw i32 %y.phi, 1
  br label %loop2
loop2.end:
  %c.next = add nsw i32 %c.phi, 4
  br label %loop1
loop1.end:
  ret void
}

declare <4 x float> @llvm.fma.v4f32(<4 x float>, <4 x float>, <4 x float>)


@arena = internal global [100 x i8] zeroinitializer, align 16

@c0 = internal constant [64 x i8] c"\00\00\80\BF\EF\EE\EE\BE\89\88\88\3D\9A\99\19\3F\DE\DD\5D\BF\AB\AA\AA\BE\CD\CC\4C\3E\BC\BB\3B\3F\BC\BB\3B\BF\CD\CC\4C\BE\AB\AA\AA\3E\DE\DD\5D\3F\9A\99\19\BF\89\88\88\BD\EF\EE\EE\3E\00\00\80\3F", align 16

@c1 = internal constant [16 x i8] c"\00\00\80\BF\AB\AA\AA\BE\AB\AA\AA\3E\00\00\80\3F", align 16

define ptr @small_x() nounwind noredzone {
  %p = getelementptr i8, ptr @arena, i32 64
  ret ptr %p
}

define ptr @small_y() nounwind noredzone {
  %p = getelementptr i8, ptr @arena, i32 0
  ret ptr %p
}

define void @small_run() nounwind noredzone {
  %a2 = getelementptr i8, ptr @arena, i32 64
  %a3 = getelementptr i8, ptr @arena, i32 0
  call void @k0_conv2d_add_relu(ptr @c0, ptr %a2, ptr @c1, ptr %a3)
  ret void
}

